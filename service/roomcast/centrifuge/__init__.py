"""The Centrifuge protocol, which many libraries speak: channels over one connection, with recovery and tokens."""
