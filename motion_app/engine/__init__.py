"""The method on a stock CogVideoX image-to-video checkpoint, file by file::

layout → motion_tokens → attention (who sees whom, the processor) → steering (its state)
→ propagation → memory → pipeline
"""
