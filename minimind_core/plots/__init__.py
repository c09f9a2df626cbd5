"""Pictures that the notebooks show. Nothing below imports this package; each module belongs to one lesson."""
