"""Models on this machine: fetched or carried in once, checked by hash, never at run time."""
