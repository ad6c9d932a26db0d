"""The methods, one file each; what each is follows from its definition (`instsel.methods.definition`)."""
