"""What every endpoint shares: sockets, origins, errors as HTTP answers, streaming."""
