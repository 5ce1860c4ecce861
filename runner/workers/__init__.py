"""Worker processes: what they and their run say to each other, and how each looks from its side."""
