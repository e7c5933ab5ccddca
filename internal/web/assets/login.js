// The login form.

// keepLine lets a link to a line of a log (#L7) lead there after the login, too. A browser keeps that part of an
// address when the builder redirects it to the form, but never sends it.
export function keepLine(next) {
  if (location.hash && !next.value.includes("#")) next.value += location.hash;
}
