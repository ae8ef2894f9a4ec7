// Body of an asynchronous function that WebDriver runs in a page: opens one WebSocket, says a word and closes.
// arguments: URL, subprotocols, the word. Returns what came of it.

const [url, protocols, word] = arguments;
return new Promise((resolve) => {
  const socket = new WebSocket(url, protocols);
  const seen = { opened: false, protocol: null, echo: null };
  socket.onopen = () => {
    seen.opened = true;
    seen.protocol = socket.protocol;
    socket.send(word);
  };
  socket.onmessage = ({ data }) => {
    seen.echo = data;
    socket.close(1000);
  };
  socket.onclose = ({ code }) => resolve({ ...seen, code });
});
