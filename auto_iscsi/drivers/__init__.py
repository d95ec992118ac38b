"""The SAN drivers of the package: programs of their own, which import only this folder."""
