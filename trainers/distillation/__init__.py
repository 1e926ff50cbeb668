"""Knowledge distillation: teachers and the cache of their logits."""
