"""Generate predictions with vLLM, with the prompts and images of verl's validation; it alone imports vLLM and torch."""
