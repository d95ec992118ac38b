"""How fast is auto-iscsi, compared with the minimum and with the script that it replaces?"""
