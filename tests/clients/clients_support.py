"""Gate: a forwarder between a client and the daemon that fails on request. One connection carries one request."""
import socket
import ssl
import threading


class Gate:
    def __init__(self, host, port, certificate=None):
        self.target = (host, port)
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if certificate:
            self.tls.load_cert_chain(*certificate)
        self.requests = []  # heads, as the client sent them
        self.bodies = []    # and what came along with them
        self.refusals = []  # answers to give instead of forwarding, first to last: bytes, None to forward
        self.cuts = []      # after how many bytes of the answer to hang up, for each connection that is forwarded
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def refuse(self, status, retry_after=None, times=1):
        head = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n"
        head += f"Retry-After: {retry_after}\r\n" if retry_after is not None else ""
        self.refusals += [(head + "\r\n").encode()] * times

    def header(self, name):
        """What each request said under this name, in order; None where it did not."""
        return [next((line.split(": ", 1)[1] for line in head.split("\r\n") if line.lower().startswith(name.lower() + ": ")),
                     None) for head in self.requests]

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            client = self.tls.wrap_socket(client, server_side=True) if self.tls else client
        except OSError:  # the client does not trust us
            return
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(65536)
            if not piece:
                return
            head += piece
        text, _, rest = head.partition(b"\r\n\r\n")
        self.requests.append(text.decode())
        length = int(self.header("Content-Length")[-1] or 0)
        while len(rest) < length:
            rest += client.recv(65536)
        self.bodies.append(rest)
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal:
            client.sendall(refusal)
            client.close()
            return
        server = socket.create_connection(self.target)
        server.sendall(text + b"\r\nConnection: close\r\n\r\n" + rest)
        threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
        cut = self.cuts.pop(0) if self.cuts else None
        self._forward(server, client, cut)
        for s in (client, server):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    @staticmethod
    def _forward(source, to, limit=None):
        try:
            while limit is None or limit > 0:
                piece = source.recv(min(65536, limit or 65536))
                if not piece:
                    return
                to.sendall(piece)
                limit = limit and limit - len(piece)
        except OSError:
            pass
