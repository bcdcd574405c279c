"""Programs and builds of the native part that no user ever runs."""
