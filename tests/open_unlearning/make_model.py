"""Save a tiny model with the transformers of the framework's environment, and print the libraries' versions."""

import sys

import accelerate
import transformers

import tiny

model = tiny.tiny_llama()
model.config.max_position_embeddings = 2048
model.save_pretrained(sys.argv[1])
tiny.tiny_tokenizer(chat=True).save_pretrained(sys.argv[1])
print(transformers.__version__, accelerate.__version__)
