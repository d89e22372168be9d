"""Fine-tuning and scoring: the only home of torch, timm and safetensors."""
