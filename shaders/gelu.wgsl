// GELU in GPT-2's tanh form (Hendrycks and Gimpel 2016, arXiv 1606.08415; "gelu_new").
fn gelu(value: f32) -> f32 {
  // tanh is clamped by hand: some drivers compute it through exp, which overflows to NaN.
  let inner = clamp(0.7978845608028654 * (value + 0.044715 * value * value * value), -15.0, 15.0);
  return 0.5 * value * (1.0 + tanh(inner));
}
