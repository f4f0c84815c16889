// history.js: the results of this browser, in IndexedDB; in memory where there is none.

const KEEP = 60;
let memory = [], database;

function open() {
  database = database || new Promise((resolve, reject) => {
    const r = indexedDB.open("ddimd", 1);
    r.onupgradeneeded = () => r.result.createObjectStore("runs", {keyPath: "id", autoIncrement: true});
    r.onsuccess = () => resolve(r.result);
    r.onerror = () => reject(r.error);
  });
  return database;
}

async function transact(mode, work) {
  const db = await open();
  return new Promise((resolve, reject) => {
    const t = db.transaction("runs", mode), r = work(t.objectStore("runs"));
    t.oncomplete = () => resolve(r.result);
    t.onerror = () => reject(t.error);
  });
}

/** Newest first: {id, time, parameters, classes, timing, png: Blob}. */
export async function list() {
  try {
    return (await transact("readonly", s => s.getAll())).reverse();
  } catch {
    return memory;
  }
}

export async function add(run) {
  try {
    run.id = await transact("readwrite", s => s.add(run));
    for (const old of (await list()).slice(KEEP)) await remove(old.id);
  } catch {
    run.id = -Date.now();
    memory = [run, ...memory].slice(0, KEEP);
  }
  return run;
}

export async function remove(id) {
  memory = memory.filter(r => r.id !== id);
  await transact("readwrite", s => s.delete(id)).catch(() => {});
}

export async function clear() {
  memory = [];
  await transact("readwrite", s => s.clear()).catch(() => {});
}
