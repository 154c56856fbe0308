"""The Structs that the HTTP APIs and the clients share."""
