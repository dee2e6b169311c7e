"""Names and passwords, in the forms that registries and clients want them."""

import base64
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A registry account."""

    username: str
    password: str

    @property
    def basic(self) -> str:
        """The value of the Authorization header."""
        return "Basic " + base64.b64encode(self.pair.encode()).decode()

    @property
    def pair(self) -> str:
        """The account as command lines take it."""
        return f"{self.username}:{self.password}"

    def htpasswd(self) -> str:
        """Return the bcrypt line for an htpasswd file."""
        command = ["htpasswd", "-Bbn", self.username, self.password]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


PULLER = Account(username="puller", password='p<&>"1\\')
"""The account that the registries know; its password asks for careful quoting."""
STRANGER = Account(username="puller", password="not-the-password")
"""The right name with a wrong password."""
