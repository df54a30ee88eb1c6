// What this browser keeps: small things in localStorage, pictures in IndexedDB.

export function read(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`daedal.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function write(name, value) {
  try {
    localStorage.setItem(`daedal.${name}`, JSON.stringify(value));
    return true;
  } catch {
    return false; // full, or forbidden: the studio works on, and forgets
  }
}

let opening;

function database() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("daedal", 1);
    request.onupgradeneeded = () =>
      request.result.createObjectStore("gallery", { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function on(mode, work) {
  const store = (await database()).transaction("gallery", mode).objectStore("gallery");
  const request = work(store);
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

const PAGE = 60; // of the gallery

// The newest things, or those older than one; a page of them.
async function older(id = Infinity) {
  const store = (await database()).transaction("gallery").objectStore("gallery");
  const range = id === Infinity ? null : IDBKeyRange.upperBound(id, true);
  const found = [];
  return new Promise((resolve, reject) => {
    const request = store.openCursor(range, "prev");
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      const cursor = request.result;
      if (cursor) found.push(cursor.value);
      if (cursor && found.length < PAGE) cursor.continue();
      else resolve({ items: found, more: found.length === PAGE });
    };
  });
}

// Things made: {medium, prompt, model, blob or text, recipe, at}.
export const gallery = {
  older,
  add: (item) => on("readwrite", (store) => store.add(item)),
  remove: (id) => on("readwrite", (store) => store.delete(id)),
};
