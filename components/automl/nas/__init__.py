"""Architecture search: spaces as data, entangled supernets, exact budgets. Light until a module with networks is imported."""
