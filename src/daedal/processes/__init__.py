"""How content is drawn from a network: autoregression and its constraints."""
