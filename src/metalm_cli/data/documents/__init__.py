"""Raw text documents: opening sources and writing training rows from them."""
