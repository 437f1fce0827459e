"""What surrounds an exported file on a server of somebody else's: configurations and manifests, as text."""
