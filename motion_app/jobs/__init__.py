"""Work that takes longer than a click: who may use the device, and generations that report."""
