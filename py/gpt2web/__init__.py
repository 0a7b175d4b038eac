"""GPT-2 text generation on WebGPU, written in Python."""

from gpt2web import layers, samplers
from gpt2web.backbone import GPT2Backbone
from gpt2web.causal_lm import GPT2CausalLM
from gpt2web.checkpoint import CheckpointError
from gpt2web.config import GPT2Config
from gpt2web.generation import Generation
from gpt2web.gpu import DeviceError
from gpt2web.inspection import Inspection
from gpt2web.next_tokens import Candidate
from gpt2web.packer import StartEndPacker
from gpt2web.preprocessor import GPT2CausalLMPreprocessor, GPT2Preprocessor
from gpt2web.stream import Piece
from gpt2web.tokenizer import BytePairTokenizer, GPT2Tokenizer

__all__ = [
    "BytePairTokenizer",
    "Candidate",
    "CheckpointError",
    "DeviceError",
    "GPT2Backbone",
    "GPT2CausalLM",
    "GPT2CausalLMPreprocessor",
    "GPT2Config",
    "GPT2Preprocessor",
    "GPT2Tokenizer",
    "Generation",
    "Inspection",
    "Piece",
    "StartEndPacker",
    "layers",
    "samplers",
]
