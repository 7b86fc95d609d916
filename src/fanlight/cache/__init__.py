"""Who owns which page of the key-value cache. Knows no model and no kernel's inside."""
