// Drive the official JavaScript SDK from another process.
//
// Commands come in on standard input and answers and events go out on standard output, one JSON
// object a line. A command is {id, do, ...arguments} and is answered by {id, result} or
// {id, error: {code, message}}. An event is {event, t, ...fields}, in the words of
// tests/support/event_log.py; t is the system's monotonic clock in seconds. What the SDK asks the
// application for is {ask}, a number, and is answered by {do: "answer", ask, value}.

import { createInterface } from 'node:readline';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

let client;
const subscriptions = new Map();
const questions = new Map();

const write = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);
const now = () => Number(process.hrtime.bigint()) / 1e9;
const emit = (event, fields) => write({ event, t: now(), ...fields });

const ask = () =>
  new Promise((resolve) => {
    const number = questions.size + 1;
    questions.set(number, resolve);
    write({ ask: number });
  });

const infoOf = (info) =>
  (info && { user: info.user, client: info.client, conn_info: info.connInfo, chan_info: info.chanInfo }) ?? null;

const publicationOf = (ctx) => ({
  data: ctx.data,
  offset: ctx.offset ?? 0,
  info: infoOf(ctx.info),
  tags: ctx.tags ?? null,
});

const subscribedOf = (ctx) => ({
  epoch: ctx.streamPosition?.epoch ?? '',
  offset: ctx.streamPosition?.offset ?? 0,
  was_recovering: ctx.wasRecovering,
  recovered: ctx.recovered,
  has_pubs: ctx.hasRecoveredPublications,
  recoverable: ctx.recoverable,
  positioned: ctx.positioned,
  data: ctx.data,
});

function watchClient() {
  client.on('connecting', ({ code, reason }) => emit('connecting', { code, reason }));
  client.on('connected', (ctx) => emit('connected', { client: ctx.client }));
  client.on('disconnected', ({ code, reason }) => emit('disconnect', { code, reason }));
  client.on('error', (ctx) => emit('error', { error: ctx.error, type: ctx.type }));
  // Those of server-side subscriptions.
  client.on('subscribing', ({ channel }) => emit('subscribing', { channel }));
  client.on('subscribed', (ctx) => emit('subscribed', { channel: ctx.channel, ...subscribedOf(ctx) }));
  client.on('unsubscribed', ({ channel }) => emit('unsub', { channel }));
  client.on('publication', (ctx) => emit('pub', { channel: ctx.channel, ...publicationOf(ctx) }));
  client.on('join', (ctx) => emit('join', { channel: ctx.channel, info: infoOf(ctx.info) }));
  client.on('leave', (ctx) => emit('leave', { channel: ctx.channel, info: infoOf(ctx.info) }));
}

function watchSubscription(subscription) {
  const { channel } = subscription;
  subscription.on('subscribing', ({ code, reason }) => emit('subscribing', { channel, code, reason }));
  subscription.on('subscribed', (ctx) => emit('subscribed', { channel, ...subscribedOf(ctx) }));
  subscription.on('unsubscribed', ({ code, reason }) => emit('unsub', { channel, code, reason }));
  subscription.on('publication', (ctx) => emit('pub', { channel, ...publicationOf(ctx) }));
  subscription.on('join', (ctx) => emit('join', { channel, info: infoOf(ctx.info) }));
  subscription.on('leave', (ctx) => emit('leave', { channel, info: infoOf(ctx.info) }));
  subscription.on('error', (ctx) => emit('sub_error', { channel, error: ctx.error, type: ctx.type }));
}

const actions = {
  async connect({ url, options, asks_token }) {
    const more = asks_token ? { getToken: ask } : {};
    client = new Centrifuge(url, { websocket: WebSocket, ...more, ...options });
    watchClient();
    client.connect();
  },

  async answer({ ask, value }) {
    questions.get(ask)(value);
  },

  async disconnect() {
    client.disconnect();
  },

  // states: positions for the SDK to start from, one for each time that it asks.
  async subscribe({ channel, options, states }) {
    let subscription = subscriptions.get(channel);
    if (!subscription) {
      const getState = async () => {
        emit('get_state', { channel });
        return states.shift();
      };
      subscription = client.newSubscription(channel, states ? { ...options, getState } : options);
      subscriptions.set(channel, subscription);
      watchSubscription(subscription);
    }
    subscription.subscribe();
  },

  async unsubscribe({ channel }) {
    subscriptions.get(channel).unsubscribe();
  },

  async publish({ channel, data }) {
    return client.publish(channel, data);
  },

  async history({ channel, options }) {
    const { publications, offset, epoch } = await client.history(channel, options);
    return { publications: publications.map(publicationOf), offset, epoch };
  },

  async presence({ channel }) {
    const { clients } = await client.presence(channel);
    return Object.fromEntries(Object.entries(clients).map(([id, info]) => [id, infoOf(info)]));
  },

  async presence_stats({ channel }) {
    const { numClients, numUsers } = await client.presenceStats(channel);
    return { num_clients: numClients, num_users: numUsers };
  },

  async rpc({ method, data }) {
    return client.rpc(method, data);
  },
};

createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const command = JSON.parse(line);
    try {
      write({ id: command.id, result: (await actions[command.do](command)) ?? {} });
    } catch (error) {
      const { code = 0, message = String(error), temporary = false } = error;
      write({ id: command.id, error: { code, message, temporary } });
    }
  })
  .on('close', () => process.exit(0));
