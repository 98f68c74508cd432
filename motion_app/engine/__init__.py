"""The method on a stock CogVideoX image-to-video checkpoint, file by file::

layout → motion_tokens → attention (who sees whom) → steering (the processor and its state)
→ propagation → memory → backbone → pipeline
"""
