"""The application decides: who may connect, subscribe and publish."""
