"""Commands on keys and signatures: `doit keygen`, `trust`, `sign`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from preflight import wiring
from preflight.commands import sign
from preflight.commands.key_management import keygen, trust
from preflight.commands.provision import closing_text
from preflight.errors import CommandLineError
from preflight.signing import PASSPHRASE_VARIABLE, SigningKey, given_passphrase, load_signing_key
from preflight.store.generations import Generation
from recipes.commands.base import OperatorCommand, option, path_of, say_rolled_back, width
from recipes.context import Context, stop_on_signals


class Keygen(OperatorCommand):
    """Makes a key pair."""

    name = "keygen"
    doc_purpose = "make an Ed25519 key pair for signing"
    doc_usage = "KEY"
    doc_description = (
        "Writes the private key KEY (PKCS#8 PEM, encrypted, mode 0600) and the public key beside it. Overwrites nothing. "
        f"Asks for the passphrase, or reads it from a file or from {PASSPHRASE_VARIABLE}."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        option("passphrase-file", "the file whose first line is the passphrase; mode 0600"),
        option("unencrypted", "do not encrypt the private key; for trials only", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Makes the pair and prints its fingerprint."""
        if len(arguments) != 1:
            raise CommandLineError("give one KEY, the file to write, such as keys/operator.pem")
        said = keygen(
            Path(arguments[0]),
            passphrase_file=path_of(options["passphrase_file"]),
            variable=run.passphrase(),
            ask=run.ask(),
            unencrypted=options["unencrypted"],
        )
        run.say(said.event, said.text, **said.fields)


class Trust(OperatorCommand):
    """Changes or lists the keys that an aircraft trusts."""

    name = "trust"
    doc_purpose = "add, revoke or list the keys of the mission's trust directory"
    doc_usage = "add KEY | revoke FINGERPRINT|KEY | list"
    doc_description = "KEY is a public key, in PEM or as a line of OpenSSH. A revoked key stays revoked."
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        option("trust", "another trust directory, such as one that will be copied to an aircraft"),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Changes the directory and prints what it holds."""
        directory = path_of(options["trust"]) or run.mission().job.trust
        said = trust(directory, arguments, wiring.wall_clock())
        run.say(said.event, said.text, **said.fields)


class Sign(OperatorCommand):
    """Signs on the machine that has the key."""

    name = "sign"
    doc_purpose = "sign on another machine: export the statement, sign it there, import the signature"
    doc_usage = "--export=FILE | --key=KEY FILE | --import=FILE.sig"
    doc_description = (
        "For missions with signing: offline, where signing_key names the public key. --key needs no mission: run it on the "
        "machine with the key. --import publishes the cache; it builds nothing again."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        option("export", "write the bytes to sign to this file, and a readable summary to FILE.json"),
        option("key", "sign FILE with this private key, into FILE.sig"),
        option("import", "take this signature, 64 bytes raw or in base64, and publish the cache"),
        option("public-key", "with --import: the public key of the signature; must be the mission's signing_key"),
        option("passphrase-file", "with --key: the file whose first line is the key's passphrase; mode 0600"),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Exports, signs or imports."""
        chosen = [name for name in ("export", "key", "import") if options[name]]
        extra = {"public_key": "import", "passphrase_file": "key"}
        strays = [name for name, goes_with in extra.items() if options[name] and [goes_with] != chosen]
        if len(chosen) != 1 or strays or len(arguments) != (chosen == ["key"]):
            raise CommandLineError("give --export=FILE, or --key=KEY FILE, or --import=FILE.sig; see doit help sign")
        {"export": self._export, "key": self._sign, "import": self._import}[chosen[0]](run, options, arguments)

    def _export(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        assembly = run.assembly()
        try:
            said = sign.export(assembly, Path(options["export"]))
        finally:
            assembly.tiles.close()
        run.say(said.event, said.text, **said.fields)

    def _sign(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        def show(text: str) -> None:
            if not run.log_json:
                print(text, flush=True)  # noqa: T201 - read before the passphrase is typed

        def unlock() -> SigningKey:
            passphrase = given_passphrase(path_of(options["passphrase_file"]), run.passphrase())
            return load_signing_key(Path(options["key"]), passphrase, run.ask())

        said = sign.sign(Path(arguments[0]), unlock, show)
        run.say(said.event, said.text, **said.fields)

    def _import(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        stop_on_signals()
        session = run.session()
        done = sign.bring_back(run.assembly(), session, Path(options["import"]), path_of(options["public_key"]))
        if isinstance(done, Generation):
            say_rolled_back(run, done)
        elif not run.log_json:
            print(closing_text(session, done, width=width()))  # noqa: T201 - the command's output
