"""LoRA adapters as tensors (`factors`) and as PEFT directories (`peft_io`)."""
