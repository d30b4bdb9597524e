// Package dashboard is the web page of the service: what is going on, and the few things that people do about it. It is
// rendered on the server and works without JavaScript; everything that it needs is in the program.
package dashboard
