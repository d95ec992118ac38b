"""How fast is it, against what it cannot be faster than, and against the script that it replaces?"""
