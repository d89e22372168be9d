"""The steps of a night: each reads the records before it, calls the library, and writes one record."""
