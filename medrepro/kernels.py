"""Kernel managers for pages: jupyter_client's, but for a heartbeat that may be stopped at any time."""

from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.channels import HBChannel
from traitlets import Type

PATIENCE = 5.0  # seconds


class Heartbeat(HBChannel):
    """A heartbeat whose thread is left behind if it does not end.

    It now and then waits for the answer of a kernel that has ended, and to join it would then take for ever.
    """

    def stop(self) -> None:
        """Stop, but wait a few seconds at most."""
        self._running = False
        self._exit.set()
        self.join(PATIENCE)
        self.close()


class Client(AsyncKernelClient):
    """A client with such a heartbeat."""

    hb_channel_class = Type(Heartbeat)


class Manager(AsyncKernelManager):
    """A manager of such clients."""

    client_factory = Type(Client, klass=AsyncKernelClient)
