"""All stages from one file, resumable at their borders."""
