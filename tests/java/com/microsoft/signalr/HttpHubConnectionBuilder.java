package com.microsoft.signalr;

import io.reactivex.rxjava3.core.Single;

public final class HttpHubConnectionBuilder extends HubConnectionBuilder {
    public HttpHubConnectionBuilder withAccessTokenProvider(Single<String> accessTokenProvider) { throw new UnsupportedOperationException(); }
    @Override public HubConnection build() { throw new UnsupportedOperationException(); }
}
