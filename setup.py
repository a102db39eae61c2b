from setuptools import find_packages, setup

# All metadata is in setup.cfg. Only the list of packages needs Python: zoo_configs/ is a plain folder of the repository
# that a wheel carries as sb3_ldm/zoo_configs/ (sb3_ldm.zoo.configs finds it in both places).
setup(
    packages=[*find_packages(include=["sb3_ldm", "sb3_ldm.*"]), "sb3_ldm.zoo_configs"],
    package_dir={"sb3_ldm.zoo_configs": "zoo_configs"},
)
