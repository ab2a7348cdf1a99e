"""The Centrifuge protocol, which many client libraries speak: channels over one connection, with recovery and tokens."""
