"""Predictions made with vLLM, from a Hugging Face model or a checkpoint of verl, on GPU or CPU.

The prompt and the image are what verl's validation shows the model, to the token; answers are greedy unless asked
otherwise. This is the only part of evaluation that imports vLLM, torch and transformers, and it does so when a model
is loaded, not before.
"""
