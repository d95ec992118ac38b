"""How fast is it, against what it cannot beat, and against the script that it replaces?"""
