"""The bundled models; a package only so that importlib.resources finds them natively."""
