"""LoRA against full fine-tuning: what each changes inside a model, what it reaches, and what serving it costs."""
