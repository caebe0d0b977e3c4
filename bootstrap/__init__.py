"""Bootstrap: from bare hosts to a cluster. Makes the cluster home, the genesis and identities, and installs agents."""
