"""Generate predictions with vLLM, from a Hugging Face model or a checkpoint of verl, on GPU or CPU.

Prompt and images are the same as in verl's validation, to the token; answers are greedy by default. This is the only
part of evaluation that imports vLLM, torch and transformers, and only when a model is loaded.
"""
