"""The method on a stock CogVideoX image-to-video checkpoint, file by file::

layout → motion_tokens → visibility (who sees whom) → attention → processor → steering (its state)
→ propagation → memory → pipeline
"""
