package com.microsoft.signalr;

import io.reactivex.rxjava3.core.Completable;
import io.reactivex.rxjava3.core.Single;

public final class HubConnection {
    public Completable start() { throw new UnsupportedOperationException(); }
    public Completable stop() { throw new UnsupportedOperationException(); }
    public <T1> Subscription on(String target, Action1<T1> callback, Class<T1> param1) { throw new UnsupportedOperationException(); }
    public void onClosed(OnClosedCallback callback) { throw new UnsupportedOperationException(); }
    public <T> Single<T> invoke(Class<T> returnType, String method, Object... args) { throw new UnsupportedOperationException(); }
}
