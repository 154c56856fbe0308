"""The domain: one folder a service process. Commands arrive by RPC; queries are functions on a connection."""
