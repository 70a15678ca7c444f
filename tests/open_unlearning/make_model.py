"""Save a tiny model in the framework's environment, in the form that its transformers reads, and print their version."""

import sys

import transformers

import tiny

model = tiny.tiny_llama()
model.config.max_position_embeddings = 2048
model.save_pretrained(sys.argv[1])
tiny.tiny_tokenizer(chat=True).save_pretrained(sys.argv[1])
print(transformers.__version__)
