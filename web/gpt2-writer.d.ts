// gpt2-writer.d.ts: the types of gpt2-writer.js, which defines <gpt2-writer>.

import type { FinishReason, Gpt2webError, Model, ModelInfo, Piece, Progress, Timing } from "./gpt2web.js";

export interface Gpt2WriterEventMap extends HTMLElementEventMap {
  /** How far a load is. */
  progress: CustomEvent<Progress> & ProgressEvent;
  /** The model is loaded. */
  ready: CustomEvent<ModelInfo>;
  piece: CustomEvent<Piece>;
  finish: CustomEvent<{ text: string; finishReason: FinishReason; seed: number; timing: Timing }>;
  error: CustomEvent<Gpt2webError> & ErrorEvent;
}

export class Gpt2Writer extends HTMLElement {
  static readonly formAssociated: boolean;
  /** The text in the field; what a form sends. */
  value: string;
  /** The model, once it is loaded. One that is given is shared: the element does not close it. */
  get lm(): Model | null;
  set lm(lm: Model | null);
  get form(): HTMLFormElement | null;
  /** Goes on from the text. Resolves to what was written; to null after an error or where it could not begin. */
  write(): Promise<string | null>;
  /** Loads the model without writing. Resolves to null after an error, which is shown. */
  load(): Promise<Model | null>;
  /** Ends what is going on, a load too. */
  stop(): void;
  addEventListener<K extends keyof Gpt2WriterEventMap>(
    type: K,
    listener: (this: Gpt2Writer, event: Gpt2WriterEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "gpt2-writer": Gpt2Writer;
  }
}
