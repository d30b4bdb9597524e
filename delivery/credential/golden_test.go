package credential_test

// Cells of version 1, sealed with rawKey(1). Do not change them: the databases of users are full of such.
const (
	goldenIndependent = "01ebc8a5ac000102030405060708090a0b6933a97532808c4a790dfe782e2a4314b0bc721c6d6a45ac8d6edd600146cffadcd3e4a143c4114672b2d713b59d040b77c2bf3848b1041700c975fcb64ab47ea7841c9bf4af630dc2c16beb6fd4c557"
	goldenOwn         = "01ebc8a5acf56eb9762e6e99bbe4fc784c432850c9f1ad836485502c0d1565a5c7b444479df0506bb1318ea6dd8771ae9c22d471fdb0ee83e1d867308f2bbbc0f6cd3c6a5e9a47ae182b0173e2c6618608a1449983e563e4b2342eefe92583c2f8"
)
