"""The method on a stock CogVideoX checkpoint, file by file::

layout → attention (who sees whom) → layers (what is asked of a model) → backbone (the model)
→ motion_tokens, adapters, synmotion → steering → preparation → runtime → pipeline
"""
