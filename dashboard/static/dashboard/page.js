// The live page, speaking the client protocol by hand: JSON objects, one a line, over a WebSocket.
const CLOCK = "demo:clock", HELLO = "demo:hello", SHOWN_MAX = 100;
const find = (id) => document.getElementById(id);
const positions = new Map(); // channel -> {offset, epoch}: where to go on after a cut
const waiting = new Map(); // command id -> what to do with its reply
let socket, retryTimer, silenceTimer, turn = 0, lastId = 0, failures = 0, pingSeconds = 25;

function show(state, text) {
  if (find("state").textContent !== text) find("state").textContent = text; // announced once
  find("state").dataset.state = document.body.dataset.state = state;
  find("retry").hidden = state !== "cut";
}

function drop() {
  turn += 1; // whatever is still under way belongs to the past
  clearTimeout(retryTimer), clearTimeout(silenceTimer), waiting.clear();
  socket?.close();
  socket = undefined;
}

function retry() {
  drop();
  retryTimer = setTimeout(connect, Math.min(20_000, 500 * 2 ** failures) * (0.5 + Math.random() / 2));
  if (failures++) show("cut", "Reconnecting…"); // the first attempt is too quick to speak of
}

async function connect() {
  drop();
  const mine = turn;
  if (!failures) show("waiting", "Connecting…");
  const answer = await fetch("/api/token/connection").catch(() => undefined);
  if (mine !== turn) return;
  if ([401, 403].includes(answer?.status)) location.assign("/login/?next=/");
  const token = answer?.ok && (await answer.json()).token;
  if (!token || mine !== turn) return mine === turn && retry();
  socket = new WebSocket(`${location.origin.replace("http", "ws")}/connection/websocket`);
  socket.onopen = () => send({ connect: { token, name: "page" } }, connected);
  socket.onmessage = ({ data }) => mine === turn && data.split("\n").forEach(receive);
  socket.onclose = ({ code, reason }) => {
    if (mine !== turn) return;
    if (code < 3500 || code >= 5000) return retry();
    drop(); // coming back would end the same way
    show("stopped", `Stopped: ${reason || code}. Reload the page to try again.`);
  };
}

function send(command, done) {
  waiting.set(++lastId, done);
  socket.send(JSON.stringify({ id: lastId, ...command }));
}

function receive(line) {
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(retry, (pingSeconds + 10) * 1000);
  const { id, error, push, ...result } = JSON.parse(line);
  if (push) return pushed(push);
  if (!id) return socket.send("{}"); // a ping
  const done = waiting.get(id);
  waiting.delete(id);
  done?.(error, result);
}

function connected(error, { connect: result }) {
  if (error) return retry();
  pingSeconds = result.ping ?? pingSeconds;
  if (positions.size) show("waiting", "Catching up…");
  [CLOCK, HELLO].forEach(subscribe);
}

function subscribe(channel) {
  const since = positions.get(channel) ?? {};
  const recover = channel === HELLO || "offset" in since; // without one: all that is kept
  send({ subscribe: { channel, recover, ...since } }, (error, { subscribe: result }) => {
    if (error?.temporary) return retry();
    if (error) return show("stopped", `Stopped: ${channel}: ${error.message}`);
    const { offset = 0, epoch = "", publications = [], recovered } = result;
    if (since.offset && !recovered && channel === HELLO) add("The server no longer has what was published meanwhile.");
    positions.set(channel, { offset, epoch });
    publications.forEach((publication) => receivePublication(channel, publication));
    if (waiting.size) return;
    failures = 0;
    show("live", "Live");
  });
}

function pushed({ channel, pub, unsubscribe }) {
  if (pub) receivePublication(channel, pub);
  if (unsubscribe?.code >= 2500) subscribe(channel); // the position is doubtful: recover
  else if (unsubscribe) show("stopped", `Stopped: ${channel}: ${unsubscribe.reason}`);
}

function receivePublication(channel, { data, offset, info }) {
  if (offset) positions.get(channel).offset = offset;
  if (channel === CLOCK) find("clock").textContent = new Date(data.unix * 1000).toLocaleTimeString();
  else add(data?.text ?? JSON.stringify(data), `#${offset} from ${info?.user ? `user ${info.user}` : "the API"}`);
}

function add(text, note = "") {
  const row = document.createElement("li");
  row.append(text, Object.assign(document.createElement("small"), { textContent: note }));
  find("messages").prepend(row);
  if (find("messages").children.length > SHOWN_MAX) find("messages").lastChild.remove();
  find("nothing").hidden = true;
}

find("publish").addEventListener("submit", (event) => {
  event.preventDefault();
  const done = (error) => {
    find("outcome").textContent = error ? `Not published: ${error.message}.` : "";
    if (!error) find("text").value = "";
  };
  if (document.body.dataset.state !== "live") return done({ message: "there is no connection now" });
  send({ publish: { channel: HELLO, data: { text: find("text").value } } }, done);
});
find("retry").addEventListener("click", connect);
addEventListener("online", connect);
addEventListener("pagehide", drop);
addEventListener("pageshow", ({ persisted }) => persisted && connect());
connect();
