"""Templates of a plug-in package; a package of its own, so that they are no data of the code that results depend on."""
